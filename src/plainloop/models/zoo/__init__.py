"""Models from elsewhere: a file for each source, with a factory of the same name, which a config names as
`plainloop.models.NAME`. A source that nobody needs is deleted with its file and its config.

    torchvision_model.py    torchvision's, by name
    timm_model.py           timm's, by name
    hub_model.py            torch.hub: a repository on GitHub, or a local folder
    pretrained.py           what they share: sizes of images, pretrained weights

Imports: models, ground.
"""
