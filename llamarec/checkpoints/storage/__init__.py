"""What is on disk: names, effects, manifests, retention, locks. Needs no torch."""
