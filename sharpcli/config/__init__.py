"""From the arguments of the command line to checked settings to objects: the only door from names to objects.

`words` composes arguments into a config, `settings` holds the typed settings, `check` makes plain checked
values of them, `targets` finds the function or class that a value names, `build` makes objects, `identity`
is what a config is known by, `plain_yaml` reads a run's config, and `former` older run directories.
"""
