"""An HTTP API that puts tasks into a PostgreSQL table, for workers to carry out."""
