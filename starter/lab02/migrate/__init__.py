"""Brings a database to the schema that the API needs, and back, one numbered file at a time."""
