"""What a student does by hand: servers that stay up, programs in the foreground, tasks, a look at
the queue, prompts. Nothing here grades anything.
"""
