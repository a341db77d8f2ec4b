"""The API that takes tasks, splits them, and queues a job for each part."""
