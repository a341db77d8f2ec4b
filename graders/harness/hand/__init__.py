"""What a student does by hand: servers that stay up, workers in the foreground, tasks, a look at
the queue. Nothing here grades anything.
"""
