"""The commands of `sharp`, a file for each: from the words of a command line to what it prints."""
