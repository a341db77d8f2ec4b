"""The grader of lab 03: the PostgreSQL worker."""
