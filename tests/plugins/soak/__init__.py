"""A pipeline that is changed, killed and given bad images while many clients use it: every answer is checked.

``python -m soak``, from the repository's root with this folder on the path.
"""
