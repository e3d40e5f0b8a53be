"""The managing endpoints: how one is declared and run, and a module of them for each domain."""
