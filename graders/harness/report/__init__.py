"""Writers of the one result model: terminal, JSON, the table of repeated runs, the timeline."""
