"""The grader of lab 02: the API that puts tasks into PostgreSQL, and its migrations."""
