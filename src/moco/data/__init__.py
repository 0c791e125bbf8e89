"""From files to batches of views: images, views, batches, in that order."""
