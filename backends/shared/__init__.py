"""What several backends need; anyone's own backend may use it too."""
