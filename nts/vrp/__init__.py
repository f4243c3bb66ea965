"""The visual reference prompt (VRP-SAM, CVPR 2024) on SAM2: trained on a user's labelled classes, used on new ones.

references + target -> prior -> augmented features -> prompts -> SAM2's mask decoder -> a map of the class -> scores of
proposals, which the same matching and merging turn into instances as those of the prototypes.
"""
