"""What reports say, in 简体中文. ``{}`` is a number or a name; see :mod:`prunus.report.language`."""

WORDS = {
    # the page
    "from {}": "原为 {}",
    "{} points": "{} 个百分点",
    "{}× faster": "快 {} 倍",
    "new": "新增",
    # tables
    "layer": "层",
    "type": "类型",
    "output": "输出",
    "parameters": "参数",
    "MACs": "乘加次数",
    "weights": "权重",
    "latency": "延迟",
    "all": "合计",
    "change": "变化",
    "removed": "去掉",
    "width before": "原宽度",
    "width after": "现宽度",
    "where": "运行环境",
    "dense": "原网络",
    "small": "小网络",
    "faster": "加速",
    "before": "之前",
    "after": "之后",
    "group": "组",
    "size": "大小",
    "state": "状态",
    "score": "得分",
    "share removed": "去掉的比例",
    "ratio": "比例",
    "parameters left": "剩余参数",
    "MACs left": "剩余乘加",
    "tensor": "张量",
    "Before and after": "剪枝前后",
    "Latency": "延迟",
    "latency: {}": "延迟：{}",
    "{}, batch {}": "{}，批大小 {}",
    "multiply-accumulates": "乘加次数",
    "activations": "激活",
    "weights file": "权重文件",
    "weights file (safetensors)": "权重文件（safetensors）",
    "ONNX file": "ONNX 文件",
    "accuracy": "准确率",
    "validation accuracy": "验证集准确率",
    "validation accuracy (%)": "验证集准确率（%）",
    "test accuracy": "测试集准确率",
    "Median of the calls [95 % confidence interval], dense and small in turns, on one thread of this machine.": (
        "各次调用的中位数 [95 % 置信区间]，两个网络轮流运行，在本机的一个线程上。"
    ),
    "Median of the calls [95 % confidence interval], dense and small in turns, on this machine, {} threads.": (
        "各次调用的中位数 [95 % 置信区间]，两个网络轮流运行，在本机上，{} 个线程。"
    ),
    # figures
    "outputs of the layer that remain (%)": "该层剩余的输出（%）",
    "removed from this layer alone (%)": "只从这一层去掉的比例（%）",
    "times faster than the unpruned model (dashed: equal)": "比未剪枝的模型快几倍（虚线：相同）",
    "epoch": "轮",
    "parameters left (%)": "剩余参数（%）",
    "MACs left (%)": "剩余乘加（%）",
    "share of the parameters that the group runs through (%)": "该组穿过的参数所占比例（%）",
    "can be cut": "可剪",
    "follows others": "随其他组",
    "frozen": "冻结",
    "Widths: {}": "宽度：{}",
    "{} against the share removed, for {}": "去掉不同比例时的{}：{}",
    "Validation accuracy by epoch; at the end {} and {} %": "各轮的验证集准确率；最后为 {} 和 {} %",
    # the demo
    "A LeNet, made really smaller": "一个真正变小的 LeNet",
    "{} of the parameters and {} of the multiply-accumulates are left. Test accuracy is {} % (before: {} %), on 2,000 "
    "real digits that decided nothing. Seed {}; {} s on one thread.": (
        "剩下 {} 的参数和 {} 的乘加。测试集准确率 {} %（之前 {} %），用 2,000 个没有参与任何决定的真实数字。种子 {}；单线程 {} 秒。"
    ),
    "multiply-accumulates, one digit": "乘加次数，一个数字",
    "activations, one digit": "激活，一个数字",
    "pruned LeNet": "剪枝后的 LeNet",
    "What masks alone do": "只有掩码时",
    "torch.nn.utils.prune writes zeros. The shapes and the arithmetic stay, and the file grows; the times were measured "
    "in turns.": "torch.nn.utils.prune 写入零。形状和计算都不变，文件反而变大；时间是轮流测量的。",
    "A mask is one more tensor to store and one more product to compute; the zeros are still multiplied. Times are medians, their 95 % confidence intervals up to {} wide; no arithmetic is saved.": (
        "掩码要多存一个张量，多算一次乘积；零照样要乘。时间是中位数，95 % 置信区间最宽为 {}；没有省下任何计算。"
    ),
    "conv1 with": "conv1 带",
    "zeros": "零",
    "shape": "形状",
    "batch {}": "批大小 {}",
    "validation": "验证集",
    "no mask": "没有掩码",
    "{}, then remove": "{}，再 remove",
    "Which layers can lose how much?": "哪一层能少多少？",
    "Each layer was cut alone, without retraining, and the small network was run on the validation digits.": (
        "每一层单独剪，不重训，小网络在验证集上运行。"
    ),
    "Sensitivity: {}": "敏感度：{}",
    "The uncut model: {}. Each layer was cut alone, without retraining.": "未剪的模型：{}。每一层单独剪，不重训。",
    "layer (width)": "层（宽度）",
    "Pruning table": "剪枝表",
    "The smallest drop that meets the budget: no layer alone may cost more than {} points of validation accuracy before "
    "retraining.": "满足预算的最小下降：重训之前，任何一层单独的代价都不超过验证集准确率的 {} 个百分点。",
    "The cut": "剪枝",
    "Proof, on real digits in fp64, before any retraining: the small network's outputs differ from the masked "
    "original's by at most {} of their size (allowed: {}).": (
        "证明（真实数字，fp64，重训之前）：小网络的输出与置零后的原网络相比，相对差最多 {}（允许 {}）。"
    ),
    "LeNet, layer by layer": "LeNet，逐层",
    "Pruned LeNet, layer by layer": "剪枝后的 LeNet，逐层",
    "Recovery": "恢复",
    "Right after the cut, validation accuracy was {} %. {} epochs of fine-tuning followed, from the labels and the "
    "unpruned LeNet's outputs (distillation); the LeNet itself had {} epochs.": (
        "刚剪完时验证集准确率为 {} %。随后微调 {} 轮，学习标签和未剪枝 LeNet 的输出（蒸馏）；LeNet 自己训练了 {} 轮。"
    ),
    "Speed": "速度",
    "Use it": "使用",
    "The folder small holds weights and a plan, no pickle; small.onnx takes any batch size.": (
        "文件夹 small 里是权重和方案，没有 pickle；small.onnx 接受任意批大小。"
    ),
    "Do it again": "重做",
    "Made with {}. On the same versions and machine a seed gives the same models; times vary. results.json has every "
    "figure, sensitivity.csv every measurement of the curves.": (
        "使用 {}。同样的版本和机器上，一个种子给出同样的模型；时间会变。results.json 有全部数字，sensitivity.csv 有曲线的全部测量。"
    ),
    # prunus report
    "{}, made smaller": "变小了的 {}",
    "{} of the parameters and {} of the multiply-accumulates are left.": "剩下 {} 的参数和 {} 的乘加。",
    "The proof": "证明",
    "The widths": "宽度",
    "Where the parameters and the work are": "参数和计算在哪里",
    "How it was decided": "如何决定",
    "What a cut would cost": "剪多少，代价多少",
    "Each group was cut alone, without any mending or training; drawn are the {} that lost most.": (
        "每个组单独剪，不修补，不训练；图中是损失最大的 {} 个。"
    ),
    "The deepest cut of each": "每组最深的一剪",
    "Every group cut by the same ratio, without any mending or training.": "每个组按同样的比例剪，不修补，不训练。",
    "{}, layer by layer": "{}，逐层",
    "The weights were changed since the cut (mended or trained), so that the proof is of the plan: the original, cut by it "
    "anew, differs from the masked original by at most {} (allowed: {}), in fp64.": (
        "剪枝之后权重改变过（修补或训练），所以证明的是方案：用它重新剪原网络，与置零后的原网络相比，fp64 相对差最多 {}（允许 {}）。"
    ),
    "The small network's outputs differ from the masked original's by at most {} of their size (allowed: {}), in fp64.": (
        "小网络的输出与置零后的原网络相比，fp64 相对差最多 {}（允许 {}）。"
    ),
    "Only the first {} of {} widths are drawn; the plan has all.": "只画出 {1} 个宽度中的前 {0} 个；方案里有全部。",
    "Made with {}.": "使用 {}。",
}
