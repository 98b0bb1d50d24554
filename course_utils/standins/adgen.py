"""Advertisements in ADGEN format: attributes such as `类型#上衣*版型#宽松` and a summary that uses every one of them.

A summary is put together from clauses: an opening, one or two sentences of detail, sometimes a closing. Each value
has a favourite clause and rarer ones, so that a model can learn which words an attribute asks for, yet two
advertisements of one garment need not agree. BLEU-4 over dev (characters, smoothing method 3, mean over items):

- the favourite clauses in the usual order, the best that a model can do: 51
- another draw for the same attributes: 40
- the summary of the training item that shares most attributes: 25
- the summary of any training item of the same type: 7
"""

import json
import random

SEED = 20240601
TRAIN, DEV = 1600, 240
SHARED = 0.6  # no dev summary has more of its 8-character n-grams than this in one training summary
WEIGHTS = (6, 3, 2)  # how often the first, second and third clause of a value is taken

OPENINGS = {
    "风格": {
        "简约": [
            "{n}走简约路线，没有多余的装饰，越看越耐看",
            "简约的设计让{n}格外百搭",
            "{n}以简约的线条打底，干净又利落",
        ],
        "复古": [
            "{n}带着浓浓的复古气息，仿佛从老电影里走来",
            "复古的调调让{n}自成一格",
            "{n}把复古元素用得恰到好处，很有年代感",
        ],
        "清新": [
            "{n}清新自然，像初夏的微风一样讨人喜欢",
            "清新的气质让{n}看着就令人心情愉悦",
            "{n}主打清新风，温柔又不张扬",
        ],
        "休闲": [
            "{n}休闲随性，怎么搭都不费力",
            "休闲的气息让{n}成为周末出门的首选",
            "{n}走休闲路线，轻松就能穿出好状态",
        ],
        "甜美": [
            "{n}甜美可人，满满的少女感",
            "甜美的气息让{n}减龄效果十足",
            "{n}甜美而不腻，俏皮得刚刚好",
        ],
        "文艺": [
            "{n}透着淡淡的文艺气息，安静又有味道",
            "文艺的调性让{n}与众不同",
            "{n}很有文艺范儿，像一首写在身上的小诗",
        ],
        "街头": [
            "{n}街头感十足，一上身就很有态度",
            "街头元素的加入让{n}酷劲十足",
            "{n}玩转街头风，随性又吸睛",
        ],
        "通勤": [
            "{n}专为通勤打造，利落又不失亲和",
            "通勤的定位让{n}在职场中得体大方",
            "{n}很适合通勤，开会见客都不失礼",
        ],
        "优雅": [
            "{n}优雅大方，举手投足都是女人味",
            "优雅的气质让{n}在人群中脱颖而出",
            "{n}优雅从容，轻轻松松穿出好气质",
        ],
    },
    "版型": {
        "宽松": [
            "{n}采用宽松的版型，穿起来自在又不挑身材",
            "宽松的剪裁让{n}轻松藏住小肉肉",
            "{n}版型宽松，给身体留足了活动空间",
        ],
        "修身": [
            "{n}采用修身的剪裁，勾勒出迷人的身材曲线",
            "修身的版型让{n}十分显身材",
            "{n}版型修身，贴合身体却不紧绷",
        ],
        "显瘦": [
            "{n}显瘦效果出众，小个子也能放心入手",
            "显瘦的剪裁让{n}悄悄带走几斤肉",
            "{n}穿上就显瘦，微胖的姑娘也不用担心",
        ],
        "廓形": [
            "{n}采用利落的廓形剪裁，很有气场",
            "廓形的版型让{n}挺括有型",
            "{n}做成了时髦的廓形，里面多穿几层也不臃肿",
        ],
    },
    "材质": {
        "棉": [
            "{n}选用柔软的棉质面料，亲肤又透气",
            "{n}以精梳棉织成，贴身穿也很舒服",
            "棉质的面料让{n}柔软吸汗",
        ],
        "雪纺": [
            "{n}选用轻薄的雪纺面料，飘逸又凉爽",
            "雪纺的面料让{n}走起路来轻盈灵动",
            "{n}用垂顺的雪纺制成，自带仙气",
        ],
        "牛仔布": [
            "{n}选用厚实的牛仔面料，耐磨又有型",
            "经典的牛仔面料让{n}百穿不厌",
            "{n}用水洗牛仔布制成，不易变形",
        ],
        "羊毛": [
            "{n}选用细腻的羊毛面料，保暖又不厚重",
            "羊毛的加入让{n}软糯亲肤",
            "{n}含有优质羊毛，天冷时也暖意融融",
        ],
        "真丝": [
            "{n}选用顺滑的真丝面料，光泽柔和",
            "真丝的面料让{n}轻若无物，清凉舒爽",
            "{n}以真丝制成，手感细腻如水",
        ],
        "亚麻": [
            "{n}选用天然的亚麻面料，透气又吸湿",
            "亚麻特有的纹理让{n}质朴而有韵味",
            "{n}以亚麻织就，炎炎夏日也清爽",
        ],
        "灯芯绒": [
            "{n}选用细密的灯芯绒面料，触感温暖",
            "灯芯绒的条纹肌理让{n}很有秋冬氛围",
            "{n}用厚实的灯芯绒制成，挡风又耐穿",
        ],
        "皮革": [
            "{n}选用柔韧的皮革面料，质感十足",
            "皮革的光泽让{n}帅气逼人",
            "{n}用软糯的仿皮革制成，好打理不易皱",
        ],
        "天丝": [
            "{n}选用垂坠的天丝面料，顺滑不易皱",
            "天丝的面料让{n}自然下垂，凉感舒适",
            "{n}以环保的天丝制成，柔滑亲肤",
        ],
    },
}

CLAUSES = {
    "版型": {
        "宽松": ["宽松的版型不挑身材", "宽松的剪裁藏肉又自在", "整体版型宽松，活动起来毫无束缚"],
        "修身": ["修身的版型勾勒出身材曲线", "修身的剪裁把腰身衬得纤细", "版型修身，干净利落"],
        "显瘦": ["显瘦的版型对微胖身材很友好", "上身显瘦，视觉上轻了好几斤", "剪裁显瘦，修饰出匀称的身形"],
        "廓形": ["廓形的剪裁撑起满满的气场", "廓形的版型遮肉又有型", "利落的廓形让身形更加挺拔"],
    },
    "材质": {
        "棉": ["棉质面料柔软透气", "柔软的棉质面料亲肤吸汗", "精选纯棉面料，久穿也不闷热"],
        "雪纺": ["雪纺面料轻薄飘逸", "轻盈的雪纺面料清凉又透气", "采用雪纺面料，垂感极佳"],
        "牛仔布": ["牛仔面料耐磨有型", "水洗的牛仔布越穿越有味道", "采用厚实的牛仔面料，结实耐穿"],
        "羊毛": ["羊毛面料软糯保暖", "细腻的羊毛面料亲肤不扎人", "混入优质羊毛，轻便又御寒"],
        "真丝": ["真丝面料顺滑有光泽", "柔滑的真丝面料轻薄凉爽", "采用桑蚕真丝，贴身穿着格外舒服"],
        "亚麻": ["亚麻面料透气凉爽", "天然的亚麻面料吸湿又排汗", "采用亚麻面料，带着自然的褶皱感"],
        "灯芯绒": ["灯芯绒面料温暖厚实", "细腻的灯芯绒面料手感柔和", "采用灯芯绒面料，秋冬氛围感十足"],
        "皮革": ["皮革面料质感高级", "柔软的皮革面料防风又帅气", "采用仿皮革面料，光泽自然"],
        "天丝": ["天丝面料垂顺凉滑", "顺滑的天丝面料抗皱好打理", "采用天丝面料，穿着如丝般舒适"],
    },
    "颜色": {
        "白色": ["纯净的白色百搭不挑人", "干净的白色清爽又耐看", "白色的基调衬得肤色透亮"],
        "黑色": ["经典的黑色显瘦又百搭", "沉稳的黑色永不过时", "黑色的基调神秘又高级"],
        "红色": ["热烈的红色衬得人气色极好", "明艳的红色让人眼前一亮", "红色的基调喜庆又吸睛"],
        "蓝色": ["沉静的蓝色清爽又显白", "清澈的蓝色让人想起大海", "蓝色的基调干净而耐看"],
        "粉色": ["温柔的粉色满是少女心", "柔嫩的粉色衬得肌肤红润", "粉色的基调甜而不腻"],
        "卡其色": ["温润的卡其色低调又百搭", "大地感的卡其色很有秋日味道", "卡其色的基调温和耐看"],
        "绿色": ["清爽的绿色充满生机", "鲜活的绿色让人眼前一亮", "绿色的基调自然又显白"],
        "灰色": ["高级的灰色沉稳耐看", "柔和的灰色怎么搭都好看", "灰色的基调低调又有质感"],
        "黄色": ["明亮的黄色活力满满", "温暖的黄色像一束阳光", "黄色的基调俏皮又亮眼"],
        "紫色": ["浪漫的紫色优美动人", "梦幻的紫色神秘又温柔", "紫色的基调很衬肤色"],
    },
    "图案": {
        "条纹": ["经典的条纹拉长身形比例", "错落的条纹打破单调", "条纹图案清爽又有节奏感"],
        "格子": ["经典的格子图案英伦味十足", "错落的格子让画面更有层次", "格子图案怎么看都不会腻"],
        "碎花": ["细密的碎花点缀其间，浪漫又灵动", "碎花图案仿佛把春天穿在了身上", "朵朵碎花温婉动人"],
        "波点": ["俏皮的波点活泼减龄", "大小不一的波点趣味横生", "波点图案灵动又别致"],
        "字母": ["胸前的字母印花个性十足", "字母图案打破沉闷，更显活力", "醒目的字母点缀，潮流感满分"],
        "卡通": ["可爱的卡通图案童趣十足", "卡通印花俏皮又减龄", "趣味的卡通形象让人会心一笑"],
        "刺绣": ["精致的刺绣立体生动", "刺绣图案针脚细密，尽显匠心", "点缀的刺绣为整体添了几分精致"],
        "纯色": ["纯色的设计百搭又耐看", "干净的纯色不易过时", "通体纯色，简单却不乏味"],
    },
    "衣领型": {
        "圆领": ["圆领设计贴合颈部，舒适自然", "经典的圆领不挑脸型", "简洁的圆领露出纤细的脖颈"],
        "V领": ["V领设计拉长颈部线条", "小巧的V领露出精致锁骨", "深浅适中的V领很显脸小"],
        "立领": ["立领设计挺括精神", "挺立的立领衬得脖颈修长", "利落的立领干练又防风"],
        "翻领": ["翻领设计大方得体", "经典的翻领修饰脸型", "规整的翻领带出几分干练"],
        "连帽": ["连帽设计活力又防风", "宽大的连帽随性减龄", "背后的连帽增添了几分青春感"],
        "高领": ["高领设计保暖又显气质", "贴合的高领护住脖颈，抵御寒风", "堆叠的高领很有慵懒味道"],
        "方领": ["方领设计露出漂亮的锁骨", "别致的方领带着宫廷味道", "利落的方领修饰肩颈线条"],
    },
    "衣袖型": {
        "泡泡袖": ["蓬松的泡泡袖俏皮可爱", "泡泡袖的设计遮住手臂赘肉", "饱满的泡泡袖带来公主般的感觉"],
        "喇叭袖": ["飘逸的喇叭袖灵动优美", "喇叭袖的设计衬得手腕纤细", "散开的喇叭袖随动作轻轻摇曳"],
        "灯笼袖": ["蓬起的灯笼袖浪漫又遮肉", "灯笼袖的设计修饰手臂线条", "圆润的灯笼袖增添了几分俏丽"],
        "蝙蝠袖": ["宽大的蝙蝠袖慵懒随性", "蝙蝠袖的设计不束缚手臂", "洒脱的蝙蝠袖轻松遮住拜拜肉"],
        "插肩袖": ["插肩袖的设计弱化肩线，更显肩窄", "利落的插肩袖活动自如", "顺畅的插肩袖让肩部更舒展"],
    },
    "衣门襟": {
        "单排扣": ["单排扣简洁利落，穿脱方便", "一排精致的单排扣规整大方", "单排扣的门襟敞开或扣上都好看"],
        "双排扣": ["双排扣很有英伦绅士味", "对称的双排扣显得端庄大气", "双排扣的门襟更具层次感"],
        "拉链": ["拉链开合顺滑，穿脱方便", "金属拉链增添了几分帅气", "拉链门襟实用又利落"],
        "系带": ["门襟处的系带可松可紧", "垂下的系带灵动飘逸", "系带设计让门襟多了几分趣味"],
        "套头": ["套头款式简单好穿", "套头的穿法随意又保暖", "套头设计省去扣子的烦恼"],
    },
    "款式": {
        "口袋": ["两侧的口袋实用又有型", "大口袋的设计方便收纳小物", "立体的口袋丰富了整体层次"],
        "拼接": ["拼接设计打破沉闷", "巧妙的拼接增添了视觉层次", "撞色拼接让人过目不忘"],
        "破洞": ["破洞设计不羁又个性", "随性的破洞带出几分叛逆", "做旧的破洞很有潮流味道"],
        "腰带": ["搭配腰带，轻松收出小蛮腰", "附赠的腰带勾勒出纤细腰身", "同色的腰带提高了腰线"],
        "荷叶边": ["层叠的荷叶边灵动柔美", "荷叶边的装饰增添了几分浪漫", "精巧的荷叶边随步伐轻轻摆动"],
        "流苏": ["垂坠的流苏随风摇曳", "流苏点缀很有波西米亚味道", "别致的流苏让走动更添风情"],
        "镂空": ["镂空花纹若隐若现，透气又精致", "细致的镂空增添了几分小心机", "镂空设计轻盈不沉闷"],
        "纽扣": ["一排纽扣装饰精致复古", "复古的纽扣点缀其间，细节满分", "金属纽扣成了点睛之笔"],
    },
    "裤长": {
        "七分裤": ["七分裤的长度露出小腿，清爽利落", "清凉的七分裤夏天穿正合适", "做成七分裤，走动时更加轻便"],
        "九分裤": ["九分裤的长度露出纤细脚踝", "利落的九分裤显高又显腿长", "做成九分裤，配什么鞋都好看"],
        "长裤": ["长裤的设计拉长腿部线条", "及地的长裤气场十足", "做成长裤，四季都能穿"],
    },
    "腰型": {
        "高腰": ["高腰设计拉长双腿比例", "高腰的剪裁藏住小肚子", "高腰设计提升腰线，轻松穿出大长腿"],
        "松紧腰": ["松紧腰不勒肚子，久坐也舒服", "弹力松紧腰穿脱方便", "贴心的松紧腰对各种腰围都友好"],
        "系带": ["腰间系带可以随意调节松紧", "系带的腰部设计更显腰细", "腰部的系带打个结，俏皮又实用"],
    },
    "裤口": {
        "毛边": ["裤脚的毛边随性不羁", "毛边裤口增添了几分个性", "不加修饰的毛边很有街拍味道"],
        "卷边": ["裤脚卷边露出脚踝，俏皮利落", "卷边裤口时髦又显腿细", "翻起的卷边多了几分随性"],
        "开叉": ["裤脚开叉，走动间更显灵动", "开叉裤口拉长小腿线条", "小小的开叉修饰了脚踝"],
    },
    "裙长": {
        "短裙": ["短裙的长度露出修长双腿", "俏皮的短裙活力满满", "做成短裙，小个子穿也很显高"],
        "中长裙": ["中长裙的长度遮住小腿，端庄得体", "过膝的中长裙不挑腿型", "做成中长裙，春秋两季都合适"],
        "长裙": ["长裙及踝，走起路来摇曳生姿", "飘飘的长裙很有女神味道", "做成长裙，把腿上的小缺点都藏好"],
    },
    "裙下摆": {
        "荷叶边": ["荷叶边裙摆层层叠叠，浪漫柔美", "裙摆的荷叶边随步伐轻轻摆动", "下摆缀上荷叶边，更显灵动"],
        "开叉": ["开叉的裙摆让双腿若隐若现", "下摆小开叉，走动更方便", "侧边的开叉添了几分小性感"],
        "不规则": ["不规则的裙摆个性十足", "下摆不规则的剪裁富有层次", "错落的不规则下摆更具设计感"],
        "压褶": ["压褶裙摆垂顺有型", "细密的压褶如水波般荡漾", "下摆压褶，一步一摇都是风情"],
    },
}

CLOSINGS = {
    "上衣": [
        "搭配一条牛仔裤就很出彩",
        "无论上班还是约会都能轻松驾驭",
        "内搭外穿都合适",
        "下身配半裙或长裤都好看",
        "一年里有三季都用得上它",
    ],
    "裤": [
        "搭配一件白T恤就很出彩",
        "配上帆布鞋，舒适又减龄",
        "无论逛街还是出游都合适",
        "上身配衬衫或卫衣都好看",
        "穿着走上一整天也不累",
    ],
    "裙": [
        "搭配一双细高跟，气质立显",
        "无论约会还是聚会都能成为焦点",
        "配上小白鞋，清爽又俏皮",
        "随手一拍就是大片",
        "出游的时候带上它准没错",
    ],
}
STARTS = ["", "", "", "同时，", "另外，"]
DETAIL_STARTS = ["", "", "细节上，", "同时，", "另外，"]

# What goes with what: fabrics, cuts and details that a garment of this name may have. Details keep the order in
# which attributes are listed.
PLAIN = ["条纹", "格子", "纯色", "刺绣"]
SOFT = ["碎花", "波点", *PLAIN]
PRINT = ["字母", "卡通", "条纹", "刺绣", "纯色"]
GARMENTS = {
    "上衣": {
        "衬衫": {
            "材质": ["棉", "雪纺", "真丝", "亚麻", "牛仔布", "天丝"], "版型": ["宽松", "修身", "显瘦"], "图案": SOFT,
            "衣领型": ["翻领", "立领", "V领"], "衣袖型": ["泡泡袖", "喇叭袖", "灯笼袖"], "衣门襟": ["单排扣", "系带"],
            "衣款式": ["口袋", "拼接", "荷叶边"],
        },
        "卫衣": {
            "材质": ["棉", "天丝"], "版型": ["宽松", "显瘦", "廓形"], "图案": PRINT,
            "衣领型": ["圆领", "连帽", "立领"], "衣袖型": ["插肩袖", "蝙蝠袖"], "衣门襟": ["拉链", "套头"],
            "衣款式": ["口袋", "拼接", "破洞"],
        },
        "T恤": {
            "材质": ["棉", "亚麻", "天丝"], "版型": ["宽松", "修身", "显瘦"], "图案": [*PRINT, "波点"],
            "衣领型": ["圆领", "V领", "方领"], "衣袖型": ["泡泡袖", "插肩袖", "蝙蝠袖"], "衣门襟": ["套头"],
            "衣款式": ["口袋", "拼接", "破洞", "镂空"],
        },
        "针织衫": {
            "材质": ["羊毛", "棉", "天丝"], "版型": ["宽松", "修身", "显瘦"], "图案": [*PRINT, "格子", "波点"],
            "衣领型": ["圆领", "V领", "高领", "方领"], "衣袖型": ["灯笼袖", "蝙蝠袖", "喇叭袖"],
            "衣门襟": ["单排扣", "套头"], "衣款式": ["拼接", "流苏", "镂空", "荷叶边"],
        },
        "风衣": {
            "材质": ["棉", "天丝", "皮革"], "版型": ["宽松", "修身", "显瘦", "廓形"], "图案": ["格子", "纯色"],
            "衣领型": ["翻领", "立领", "连帽"], "衣袖型": ["插肩袖", "灯笼袖"], "衣门襟": ["单排扣", "双排扣", "拉链"],
            "衣款式": ["腰带", "口袋", "拼接"],
        },
        "西装": {
            "材质": ["羊毛", "亚麻", "天丝"], "版型": ["宽松", "修身", "显瘦", "廓形"],
            "图案": ["条纹", "格子", "纯色"], "衣领型": ["翻领", "立领"], "衣袖型": ["泡泡袖"],
            "衣门襟": ["单排扣", "双排扣"], "衣款式": ["腰带", "口袋", "拼接"],
        },
        "外套": {
            "材质": ["牛仔布", "灯芯绒", "皮革", "羊毛"], "版型": ["宽松", "修身", "显瘦", "廓形"], "图案": PLAIN,
            "衣领型": ["翻领", "立领", "连帽"], "衣袖型": ["插肩袖", "蝙蝠袖", "灯笼袖"],
            "衣门襟": ["拉链", "单排扣", "双排扣"], "衣款式": ["口袋", "拼接", "流苏"],
        },
    },
    "裤": {
        name: {
            "材质": fabrics, "版型": cuts, "图案": PLAIN,
            "裤长": ["七分裤", "九分裤", "长裤"], "裤腰型": ["高腰", "松紧腰", "系带"], "裤口": ends,
            "裤款式": ["口袋", "拼接", "破洞", "纽扣"],
        }
        for name, cuts, fabrics, ends in [
            ("阔腿裤", ["宽松", "显瘦"], ["棉", "雪纺", "亚麻", "天丝", "牛仔布"], ["毛边", "开叉"]),
            ("小脚裤", ["修身", "显瘦"], ["棉", "牛仔布", "灯芯绒", "皮革"], ["毛边", "卷边", "开叉"]),
            ("直筒裤", ["宽松", "修身", "显瘦"], ["棉", "牛仔布", "灯芯绒", "羊毛", "亚麻"], ["毛边", "卷边"]),
            ("哈伦裤", ["宽松", "显瘦"], ["棉", "亚麻", "天丝", "牛仔布"], ["卷边"]),
            ("喇叭裤", ["修身", "显瘦"], ["棉", "牛仔布", "灯芯绒", "天丝"], ["毛边", "开叉"]),
        ]
    },
    "裙": {
        name: {
            "材质": fabrics, "版型": cuts, "图案": patterns,
            "裙长": ["短裙", "中长裙", "长裙"], "裙腰型": ["高腰", "松紧腰", "系带"], "裙下摆": hems,
            "裙款式": ["口袋", "拼接", "纽扣", "流苏"],
        }
        for name, cuts, fabrics, patterns, hems in [
            ("A字裙", ["宽松", "显瘦"], ["棉", "牛仔布", "灯芯绒", "皮革", "羊毛"], SOFT, ["荷叶边", "不规则"]),
            ("百褶裙", ["宽松", "显瘦"], ["雪纺", "棉", "天丝", "羊毛"], SOFT, ["不规则"]),
            ("鱼尾裙", ["修身", "显瘦"], ["真丝", "天丝", "羊毛", "棉"], PLAIN, ["荷叶边", "开叉", "压褶"]),
            ("包臀裙", ["修身", "显瘦"], ["牛仔布", "皮革", "羊毛", "棉"], PLAIN, ["开叉", "不规则"]),
            ("蛋糕裙", ["宽松", "显瘦"], ["雪纺", "棉", "天丝"], SOFT, ["荷叶边", "不规则"]),
            ("吊带裙", ["宽松", "修身", "显瘦"], ["真丝", "雪纺", "天丝", "亚麻"], SOFT, ["荷叶边", "开叉", "压褶"]),
        ]
    },
}  # fmt: skip
# Styles that a garment of this name does not have.
UNUSUAL = {
    (name, style)
    for style, names in {
        "简约": ["蛋糕裙"],
        "休闲": ["鱼尾裙", "西装"],
        "优雅": ["卫衣", "T恤", "哈伦裤", "小脚裤"],
        "通勤": ["卫衣", "哈伦裤", "蛋糕裙", "吊带裙"],
        "街头": ["鱼尾裙", "蛋糕裙", "百褶裙", "西装"],
        "甜美": ["西装", "风衣", "直筒裤", "喇叭裤"],
    }.items()
    for name in names
}
ORNATE = {"流苏", "荷叶边", "破洞", "镂空", "毛边", "泡泡袖"}
NAMED_BY = {"上衣": "衣样式", "裤": "裤型", "裙": "裙型"}
MEASURE = {"上衣": "件", "裤": "条", "裙": "条"}
# The order in which a summary speaks of them; CLAUSES has no type in its keys where the words do not differ.
SPOKEN = [
    "材质",
    "颜色",
    "图案",
    "版型",
    "裤长",
    "裙长",
    "腰型",
    "衣领型",
    "衣袖型",
    "衣门襟",
    "裤口",
    "裙下摆",
    "款式",
]


def _clause_key(attribute: str) -> str:
    """The key of CLAUSES for an attribute: 裤腰型 and 裙腰型 are spoken of alike, and so is every 款式."""
    return attribute[1:] if attribute[1:] in ("腰型", "款式") else attribute


def stem(value: str) -> str:
    """The characters by which a summary shows that it used a value."""
    return value.removesuffix("布")


def _fits(attributes: dict[str, str]) -> bool:
    """Whether values that each go with the garment also go with one another."""
    style, fabric, pattern = (attributes.get(name, "") for name in ("风格", "材质", "图案"))
    colour, name = attributes.get("颜色", ""), attributes[NAMED_BY[attributes["类型"]]]
    torn = "破洞" in attributes.values() or attributes.get("裤口") == "毛边"
    short = attributes.get("裙长") == "短裙"
    return not (
        (fabric in ("牛仔布", "皮革") and pattern not in ("", "刺绣", "纯色"))
        or (fabric == "牛仔布" and colour not in ("", "蓝色", "黑色", "白色", "灰色"))
        or (fabric in ("真丝", "雪纺", "羊毛", "皮革") and torn)
        or (fabric == "灯芯绒" and pattern == "条纹")
        or (style in ("通勤", "优雅", "文艺") and (torn or pattern in ("字母", "卡通")))
        or (style == "优雅" and attributes.get("衣领型") == "连帽")
        or (style == "简约" and (pattern not in ("", "纯色", "条纹") or ORNATE & set(attributes.values())))
        or (name, style) in UNUSUAL
        or (style == "街头" and (fabric in ("真丝", "雪纺") or pattern in ("碎花", "波点")))
        or (style == "甜美" and (torn or fabric == "皮革"))
        or (attributes.get("衣门襟") == "系带" and attributes.get("衣领型") == "连帽")
        or (attributes.get("衣门襟") == "套头" and attributes.get("衣领型") in ("翻领", "立领"))
        or (attributes.get("衣门襟") == "拉链" and attributes.get("衣领型") == "圆领")
        or (attributes.get("裙型") == "包臀裙" and attributes.get("裙长") == "长裙")
        or (attributes.get("裙型") == "鱼尾裙" and short)
        or (short and attributes.get("裙下摆") in ("开叉", "压褶"))
        or (attributes.get("裙型") == "吊带裙" and attributes.get("裙腰型") == "松紧腰")
        or (attributes.get("裤型") == "喇叭裤" and attributes.get("裤长") == "七分裤")
        or (attributes.get("裤型") == "阔腿裤" and attributes.get("裤腰型") == "系带" and fabric == "牛仔布")
        or list(attributes.values()).count("系带") + list(attributes.values()).count("腰带") > 1
    )


def _attributes(rng: random.Random) -> dict[str, str]:
    """Draw a garment and three to five more attributes that go together."""
    while True:
        kind = rng.choice(list(GARMENTS))
        name = rng.choice(list(GARMENTS[kind]))
        may_have = GARMENTS[kind][name]
        special = [attribute for attribute in may_have if attribute not in ("材质", "版型", "图案")]
        chosen = {"材质": 0.6, "版型": 0.6, "颜色": 0.55, "图案": 0.45, "风格": 0.6} | dict.fromkeys(special, 0.4)
        chosen = {attribute for attribute, share in chosen.items() if rng.random() < share}
        # An opening speaks of one of these three.
        if not 3 <= len(chosen) <= 5 or not chosen & {"风格", "版型", "材质"}:
            continue
        attributes = {"类型": kind}
        everywhere = {"颜色": list(CLAUSES["颜色"]), "风格": list(OPENINGS["风格"]), NAMED_BY[kind]: [name]}
        for attribute in ["版型", "材质", "颜色", "风格", "图案", NAMED_BY[kind], *special]:
            if attribute in chosen or attribute == NAMED_BY[kind]:
                attributes[attribute] = rng.choice(everywhere.get(attribute) or may_have[attribute])
        if _fits(attributes):
            return attributes


def summary(attributes: dict[str, str], rng: random.Random) -> str:
    """Draw the words for these attributes."""
    kind = attributes["类型"]
    rest = {_clause_key(name): value for name, value in attributes.items() if name not in ("类型", NAMED_BY[kind])}
    name = f"这{MEASURE[kind]}"
    if "颜色" in rest and rng.random() < 0.65:
        name += rest.pop("颜色")
    name += attributes[NAMED_BY[kind]]

    def pick(texts: list[str]) -> str:
        return rng.choices(texts, WEIGHTS)[0]

    first = next(key for key in OPENINGS if key in rest)
    opening = pick(OPENINGS[first][rest.pop(first)]).format(n=name)
    keys = [key for key in SPOKEN if key in rest]
    clauses = [pick(CLAUSES[key][rest[key]]) for key in keys]
    # One clause after the opening if many are left, then two to a sentence.
    sentences = [opening]
    if len(clauses) > 3 or (clauses and rng.random() < 0.2):
        sentences[0] += "，" + clauses.pop(0)
        keys.pop(0)
    details = ["，".join(clauses[start : start + 2]) for start in range(0, len(clauses), 2)]
    if details:
        about_details = keys[len(details) * 2 - 2] not in ("材质", "颜色", "图案", "版型")
        details[-1] = rng.choice(DETAIL_STARTS if about_details else STARTS) + details[-1]
    if len(details) > 1 and rng.random() < 0.2:
        details = [details[1].removeprefix("同时，").removeprefix("另外，"), details[0]]
    sentences += details
    if len(sentences) == 1 or rng.random() < (0.5 if len(sentences) == 2 else 0.1):
        sentences.append(rng.choice(CLOSINGS[kind]))
    return "。".join(sentences) + "。"


def ngrams(text: str, n: int = 8) -> set[str]:
    """The runs of `n` characters in a text."""
    return {text[start : start + n] for start in range(len(text) - n + 1)}


def _repeats(text: str) -> bool:
    """Whether some three characters come twice, or a word that is noticed when it does."""
    runs = [text[start : start + 3] for start in range(len(text) - 2)]
    noticed = ["修饰", "勾勒", "十足", "显瘦", "味道", "线条", "几分", "百搭", "经典", "层次", "灵动", "利落", "随性"]
    return len(set(runs)) < len(runs) or any(text.count(word) > 1 for word in noticed)


def items() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The training and the dev items. No attributes come twice, and no dev summary is close to a training one."""
    rng = random.Random(SEED)
    drawn: dict[frozenset, dict[str, str]] = {}
    while len(drawn) < 2 * (TRAIN + DEV):
        attributes = _attributes(rng)
        words = summary(attributes, rng)
        while _repeats(words):
            words = summary(attributes, rng)
        content = "*".join(f"{name}#{value}" for name, value in attributes.items())
        drawn.setdefault(frozenset(attributes.items()), {"content": content, "summary": words})
    texts = list(drawn.values())
    train, dev = texts[:TRAIN], []
    seen = [ngrams(item["summary"]) for item in train]
    for item in texts[TRAIN:]:
        own = ngrams(item["summary"])
        if len(dev) < DEV and max(len(own & other) for other in seen) <= SHARED * len(own):
            dev.append(item)
    return train, dev


def files() -> dict[str, str]:
    """The files under data/ and their text: JSON lines, as in the published AdvertiseGen."""
    return {
        f"adgen_mini/{split}.json": "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in part)
        for split, part in zip(("train", "dev"), items(), strict=True)
    }
