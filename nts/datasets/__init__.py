"""Datasets: protocols, their layouts on disk, sampling of references, episodes, simulated annotations."""
