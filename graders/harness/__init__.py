"""The harness: what graders are built from.

Data flows one way: servers -> wire -> student process -> world; everything observed flows into
the history; checks judge the history; reports draw it. No room imports one above it.
"""
