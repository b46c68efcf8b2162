/* A plugin for QEMU (version 4 of its interface) that counts the instructions executed, and writes their number to
   the file that COUNT_TOTAL names. The declarations are those that it needs of the interface. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
/* A number for each hart. */
typedef struct {
    struct qemu_plugin_scoreboard *score;
    size_t offset;
} plugin_u64;
enum plugin_op { ADD_U64 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
uint64_t qemu_plugin_u64_sum(plugin_u64 number);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*call)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn, enum plugin_op op,
                                                         plugin_u64 number, uint64_t value);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*call)(plugin_id, void *), void *data);

int qemu_plugin_version = 4;

static plugin_u64 executed;

/* Each by itself: a block that traps in the middle hasn't executed what follows. */
static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++)
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(qemu_plugin_tb_get_insn(block, i), ADD_U64, executed, 1);
}

static void ended(plugin_id id, void *data)
{
    const char *path = getenv("COUNT_TOTAL");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file, "%" PRIu64 "\n", qemu_plugin_u64_sum(executed));
    fclose(file);
}

int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments)
{
    executed.score = qemu_plugin_scoreboard_new(sizeof(uint64_t));
    executed.offset = 0;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
