"""Stage 0: what do encoders and language model learn before any question about a scan? The words of what cells show."""
