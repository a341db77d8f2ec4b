"""Whole classes: what a learning platform hands out, opened safely, one submission per student."""
