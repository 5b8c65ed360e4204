"""The words of the drawn world, in English and Chinese: names, places and instructions.

A phrase has several wordings, numbered alike in both languages. Patterns and second colours have
no words on purpose: only a picture can tell them.
"""

from collections.abc import Sequence

from jaxgen.data.shapes.scenes import Grid
from jaxgen.data.shapes.scenes import Item
from jaxgen.data.shapes.scenes import Scene

LANGUAGES = ('en', 'zh')
WORDINGS = 2  # of every phrase
_CHINESE = {
    'red': '红色', 'orange': '橙色', 'yellow': '黄色', 'green': '绿色', 'blue': '蓝色', 'purple': '紫色',
    'black': '黑色', 'white': '白色', 'grey': '灰色', 'sand': '沙色', 'mint': '薄荷色', 'pink': '粉色',
    'sky': '天蓝色', 'circle': '圆形', 'square': '方形', 'triangle': '三角形', 'cross': '十字形',
}
_ROWS = {'en': {1: ('',), 2: ('top', 'bottom'), 3: ('top', 'middle', 'bottom')},
         'zh': {1: ('',), 2: ('上', '下'), 3: ('上', '中', '下')}}
_COLUMNS = {'en': {1: ('',), 2: ('left', 'right'), 3: ('left', 'centre', 'right')},
            'zh': {1: ('',), 2: ('左', '右'), 3: ('左', '中', '右')}}

# phrase -> language -> wordings
PHRASES: dict[str, dict[str, tuple[str, str]]] = {
    'add': {'en': ('add {a} at the {place}', 'put {a} at the {place}'),
            'zh': ('在{place}添加{a}', '在{place}放上{a}')},
    'remove': {'en': ('remove {the}', 'take {the} away'), 'zh': ('去掉{the}', '把{the}拿走')},
    'replace': {'en': ('replace {the} with {a}', 'put {a} in place of {the}'),
                'zh': ('把{the}换成{a}', '用{a}代替{the}')},
    'recolour': {'en': ('make {the} {color}', 'paint {the} {color}'),
                 'zh': ('把{the}变成{color}', '把{the}涂成{color}')},
    'move': {'en': ('move {the} to the {place}', 'bring {the} to the {place}'),
             'zh': ('把{the}移到{place}', '把{the}挪到{place}')},
    'swap': {'en': ('swap {the} and {other}', 'exchange {the} and {other}'),
             'zh': ('交换{the}和{other}', '让{the}和{other}互换位置')},
    'ground': {'en': ('make the background {color}', 'change the background to {color}'),
               'zh': ('把背景变成{color}', '把背景换成{color}')},
    # The same changes as captions of two frames.
    'add happens': {'en': ('{a} appears at the {place}', 'at the {place} {a} comes up'),
                    'zh': ('{place}出现了{a}', '{a}出现在{place}')},
    'remove happens': {'en': ('{the} disappears', '{the} goes away'),
                       'zh': ('{the}消失了', '{the}不见了')},
    'replace happens': {'en': ('{the} turns into {a}', '{the} becomes {a}'),
                        'zh': ('{the}变成了{a}', '{the}成了{a}')},
    'recolour happens': {'en': ('{the} turns {color}', '{the} becomes {color}'),
                         'zh': ('{the}变成了{color}', '{the}成了{color}')},
    'move happens': {'en': ('{the} moves to the {place}', '{the} goes to the {place}'),
                     'zh': ('{the}移到了{place}', '{the}去了{place}')},
    'swap happens': {'en': ('{the} and {other} swap', '{the} and {other} change places'),
                     'zh': ('{the}和{other}交换了', '{the}和{other}互换了位置')},
    'ground happens': {'en': ('the background turns {color}', 'the background becomes {color}'),
                       'zh': ('背景变成了{color}', '背景成了{color}')},
    # Pictures of what references show; {list} is one of the two below for each reference.
    'reference': {'en': ('the object of image {number}', 'what image {number} shows'),
                  'zh': ('图{number}的物体', '图{number}里的东西')},
    'placed': {'en': ('{who} at the {place}', '{who}, {place}'),
               'zh': ('{who}在{place}', '{place}是{who}')},
    'on': {'en': ('{what}, on a {color} background', '{what}, the background {color}'),
           'zh': ('{what}，背景是{color}', '{what}，{color}背景')},
    'figure': {'en': ('image {number}', 'figure {number}'), 'zh': ('图{number}', '{number}号')},
    'stands': {'en': ('{who} {place}', '{place} {who}'), 'zh': ('{who}{place}', '{place}{who}')},
    'transform': {'en': ('show it at the {place}, on a {color} background',
                         'draw it again at the {place}, the background {color}'),
                  'zh': ('把它画在{place}，背景是{color}', '再画一次，放在{place}，{color}背景')},
    'same': {'en': ('keep the image as it is', 'draw the same image'),
             'zh': ('保持图片不变', '画同样的图')},
    'pan': {'en': ('pan {way}', 'look further {way}'), 'zh': ('镜头向{way}移', '往{way}看')},
    'turn': {'en': ('turn {way}', 'rotate {way}'), 'zh': ('镜头向{way}转', '往{way}转')},
    'zoom': {'en': ('zoom in on the {place}', 'come closer to the {place}'),
             'zh': ('放大{place}', '靠近{place}')},
    # Dialogues.
    'draw steps': {'en': ('draw step by step: {list}', 'show how to draw {list}'),
                   'zh': ('一步一步画：{list}', '演示怎么画{list}')},
    'edit steps': {'en': ('change the image step by step: {list}', 'do one after another: {list}'),
                   'zh': ('一步一步修改图片：{list}', '依次完成：{list}')},
    'step': {'en': ('step {number}: {what}.', 'step {number}: {what}.'),
             'zh': ('第{number}步：{what}。', '第{number}步：{what}。')},
    'done': {'en': ('done in {number} steps.', 'done in {number} steps.'),
             'zh': ('{number}步完成。', '{number}步完成。')},
}
RELATIONS = {'left of': ('left of', '左边'), 'right of': ('right of', '右边'),
             'above': ('above', '上面'), 'below': ('below', '下面')}
_WAYS = {'left': '左', 'right': '右', 'up': '上', 'down': '下'}


class Speaker:
  """Says things in one language.

  Args:
    language: one of ``LANGUAGES``.
    wording: which wording of every phrase.
    grid: of the scenes it speaks of.
  """

  def __init__(self, language: str, wording: int, grid: Grid):
    self.language, self.wording, self._grid = language, wording, grid

  def say(self, phrase: str, **words: object) -> str:
    """A phrase with its words put in."""
    return PHRASES[phrase][self.language][self.wording].format(**words)

  def word(self, english: str) -> str:
    """A colour or a shape."""
    return english if self.language == 'en' else _CHINESE[english]

  def way(self, english: str) -> str:
    """A direction."""
    return english if self.language == 'en' else _WAYS[english]

  def relation(self, first: str, relation: str, second: str) -> str:
    """``relation`` is a key of ``RELATIONS``."""
    english, chinese = RELATIONS[relation]
    return (f'{first} {english} {second}' if self.language == 'en' else
            f'{first}在{second}的{chinese}')

  def place(self, cell: int) -> str:
    """A cell: by words on grids up to 3 x 3, by numbers on larger ones."""
    rows, columns = self._grid
    row, column = divmod(cell, columns)
    if max(rows, columns) > 3:
      return (f'row {row + 1} column {column + 1}' if self.language == 'en' else
              f'第{row + 1}行第{column + 1}列')
    down, right = _ROWS[self.language][rows][row], _COLUMNS[self.language][columns][column]
    if self.language == 'en':
      return ' '.join(word for word in (down, right) if word) or 'centre'
    return f'{right}{down}' or '中间'

  def name(self, item: Item) -> str:
    """An item by all that has words: ``small red circle``; a patterned one is an ``object``."""
    if len(item.colors) > 1:
      return 'object' if self.language == 'en' else '物体'
    words = (self.word(item.colors[0]), self.word(item.shape))
    if self.language == 'en':
      return ' '.join((*(('small',) if item.size == 'small' else ()), *words))
    return ('小' if item.size == 'small' else '') + ''.join(words)

  def a(self, item: Item) -> str:
    """An item that is new."""
    name = self.name(item)
    if self.language == 'zh':
      return f'一个{name}'
    return f'an {name}' if name[0] in 'aeiou' else f'a {name}'

  def the(self, scene: Scene, cell: int) -> str:
    """An item that is there: by its name if that tells it from the others, else by its place."""
    item = scene.items[cell]
    names = [self.name(other) for other in scene.items if other]
    name = self.name(item)
    if len(item.colors) == 1 and names.count(name) == 1:
      return f'the {name}' if self.language == 'en' else name
    object_, at = self.name(Item('', ('', ''))), self.place(cell)
    return f'the {at} {object_}' if self.language == 'en' else f'{at}的{object_}'

  def listed(self, parts: Sequence[str]) -> str:
    """Several things in a row."""
    return (', ' if self.language == 'en' else '，').join(parts)

  def numbered(self, parts: Sequence[str]) -> str:
    """``1. this 2. that``."""
    return ' '.join(f'{number}. {part}' for number, part in enumerate(parts, start=1))
