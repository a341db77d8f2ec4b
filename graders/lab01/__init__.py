"""The grader of lab 01."""
