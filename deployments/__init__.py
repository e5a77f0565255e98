"""How fedrounds is run: the command line, servers, served deployments, named trainings."""
