"""What surrounds a sync: locks, attempts, devices, the backend's edits, compaction. Private."""
