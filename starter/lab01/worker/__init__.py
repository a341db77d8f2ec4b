"""A background worker with a Redis list as its queue."""
