"""The behavioural loss: its spectrum, and the volume of what changes nothing."""
