def is_released(content):
    return False


def translate(content, path):
    raise NotImplementedError
