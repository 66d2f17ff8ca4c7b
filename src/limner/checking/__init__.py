"""What the model will see: findings on images and captions, their page, the fixes."""
