DINOV3 = {}
