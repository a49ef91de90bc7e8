"""What tests share: numbers, sections, networks, commands."""
