"""What features are worth: each evaluation is a function from features or an encoder to scores."""
