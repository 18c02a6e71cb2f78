"""Tools for agents: the Model Context Protocol's side of the server, below named folders and read-only."""
