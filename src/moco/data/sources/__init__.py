"""Where images come from: folders, lists, archives, tables, arrays and Python sequences."""
