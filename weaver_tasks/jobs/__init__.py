"""What several stages share: a trained network ready to score, a training before its first step."""
