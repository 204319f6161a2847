"""Exporting and sharing: a run's maker for those who have no gansmith, its model card, and the Hugging Face hub."""
