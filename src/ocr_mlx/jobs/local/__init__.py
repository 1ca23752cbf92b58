"""Jobs of one machine: SQLite in the state folder, read by the servers that share it."""
