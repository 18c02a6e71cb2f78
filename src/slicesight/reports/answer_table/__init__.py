"""The answers about many scans: how they are made, kept, written as a table and shown on one page."""
