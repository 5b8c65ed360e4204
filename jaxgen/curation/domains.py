"""What people ask for with pictures: 8 everyday domains, 151 sub-categories (L122).

DuetGen names two of its domains and none of its sub-categories; all others are ours.
"""

DOMAINS = {
    'Home & Living': (
        'kitchen organisation', 'wardrobe organisation', 'deep cleaning', 'laundry and stains',
        'small repairs', 'plumbing basics', 'painting walls', 'furniture assembly',
        'furniture restoration', 'shelves and storage', 'home decoration', 'lighting',
        'bedding and bedrooms', 'home office setup', 'seasonal decoration', 'moving house',
        'energy saving', 'home safety', 'bathroom care'),
    'Food & Cooking': (
        'bread baking', 'cakes and pastries', 'cookies', 'breakfast dishes', 'soups and stews',
        'salads', 'pasta', 'rice dishes', 'noodles and dumplings', 'meat dishes',
        'fish and seafood', 'vegetarian dishes', 'sauces and dips', 'preserving and pickling',
        'coffee and tea', 'cold drinks', 'desserts', 'knife skills', 'food plating',
        'lunch boxes'),
    'Pets & Animal Caring': (
        'dog training', 'dog grooming', 'cat care', 'cat furniture', 'puppy care', 'aquariums',
        'bird keeping', 'rabbits', 'hamsters and guinea pigs', 'reptiles', 'horse care',
        'chickens and ducks', 'beekeeping', 'home-made pet food', 'pet toys', 'pet first aid',
        'wild birds and feeders', 'travelling with pets'),
    'Arts & Crafts': (
        'pencil drawing', 'watercolour', 'oil and acrylic painting', 'digital illustration',
        'calligraphy and lettering', 'origami', 'paper crafts', 'card making', 'knitting',
        'crochet', 'sewing', 'embroidery', 'pottery and clay', 'woodworking', 'jewellery making',
        'candles and soap', 'leather work', 'printmaking', 'model building',
        'crafts with children'),
    'Health & Beauty': (
        'yoga', 'strength training', 'stretching', 'running', 'swimming technique', 'home workouts',
        'skin care', 'make-up', 'hair styling', 'hair cutting', 'braids', 'nail care',
        'massage and relaxation', 'posture at work', 'first aid', 'healthy habits', 'sleep',
        'shaving and beards'),
    'Garden & Outdoors': (
        'vegetable garden', 'herbs', 'flower beds', 'roses', 'lawn care', 'fruit trees', 'pruning',
        'composting', 'indoor plants', 'succulents and cacti', 'balcony garden', 'garden ponds',
        'garden furniture and paths', 'pest control', 'camping', 'hiking', 'campfires',
        'knots and ropes', 'fishing'),
    'Stories & Learning': (
        'bedtime stories', 'fairy tales', 'animal stories', 'adventure stories', 'science fiction',
        'comic strips', 'picture books', 'historical events', 'space and planets',
        'plants and how they grow', 'the human body', 'weather and climate', 'physics experiments',
        'chemistry at home', 'geometry', 'how machines work', 'famous buildings',
        'geography and maps', 'learning the alphabet'),
    'Technology & Travel': (
        'phone photography', 'camera basics', 'photo composition', 'computer assembly',
        'electronics projects', 'simple robots', 'bicycle repair', 'car maintenance',
        'drones', 'musical instruments', 'packing luggage', 'city trips', 'beach holidays',
        'winter sports', 'road trips', 'local festivals', 'party planning', 'gift wrapping'),
}


def categories() -> list[tuple[str, str]]:
  """(domain, sub-category) of all, in their order."""
  return [(domain, name) for domain, names in DOMAINS.items() for name in names]
