"""The built-in backends, one file each; they register like anyone's own."""
