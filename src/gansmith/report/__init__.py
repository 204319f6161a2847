"""What a run shows and leaves behind: pictures, metrics, curves and the live line."""
