"""What is around a sync, and is nobody's business outside of mobync."""
