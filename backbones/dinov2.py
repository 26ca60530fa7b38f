DINOV2 = {}
