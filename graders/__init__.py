"""Worker Labs: graders for a teaching kit on background workers and job queues."""

__version__ = "0.1.0"
