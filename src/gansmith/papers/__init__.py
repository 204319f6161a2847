"""What serves one paper alone: the 2014 networks, data and figures, and the reproduction of its number."""
