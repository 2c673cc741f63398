"""The command line: arguments in, text or JSON out. The only room that prints."""
