"""The page Images: a folder of images, its captions, what ``limner check`` finds, how it is cropped."""
