"""Child processes: what runs inside (worker) and who starts, watches and buries them (pool)."""
