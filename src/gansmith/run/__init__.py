"""What a run leaves behind: its folder and lock, the log, pictures, curves, checkpoints at their intervals."""
