"""What every part of the package stands on: errors, checks of arguments, the terminal."""
