"""Measurements on this machine: where the time of a round goes, and how long training takes to reach a score."""
