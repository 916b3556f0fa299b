// The only C++ of the trainer: SentencePiece behind the C of tokenizer.h. Every entry point catches what the library
// throws.
#include <sentencepiece_processor.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

extern "C" {
#include "file.h"
#include "tokenizer.h"
}

struct tokenizer {
    sentencepiece::SentencePieceProcessor processor;
    std::string file;
};

static const size_t MAX_TEXT_BYTES = (size_t)1 << 30;

template <typename Work>
static bool guarded(const char *file, fault *f, Work work) {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        return fault_memory(f, file);
    } catch (const std::exception &error) {
        return fault_set(f, FAULT_INPUT, file, nullptr, "%s", error.what());
    }
}

static bool load_bytes(tokenizer **loaded, const mapped_file &map, const char *file, fault *f) {
    return guarded(file, f, [&] {
        std::unique_ptr<tokenizer> t(new tokenizer);
        t->file = file;
        absl::string_view bytes(reinterpret_cast<const char *>(map.data), map.size);
        sentencepiece::util::Status status = t->processor.LoadFromSerializedProto(bytes);
        if (!status.ok() || t->processor.GetPieceSize() <= 0) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "not a SentencePiece model");
        }
        *loaded = t.release();
        return true;
    });
}

bool tokenizer_load(tokenizer **loaded, const char *path, fault *f) {
    char inside[FILE_PATH_MAX];
    mapped_file map;
    *loaded = nullptr;
    bool folder = file_is_folder(path);
    if (!file_path(inside, folder ? path : nullptr, folder ? "tokenizer.model" : path, f)) {
        return false;
    }
    if (folder && !file_exists(inside)) {
        return fault_set(f, FAULT_INPUT, inside, nullptr,
                         "missing: only SentencePiece's models are read, of tokenizer.json none");
    }
    if (!file_map(&map, inside, f)) {
        return false;
    }
    bool done = load_bytes(loaded, map, inside, f);
    file_unmap(&map);
    return done;
}

void tokenizer_free(tokenizer *t) {
    delete t;
}

uint32_t tokenizer_vocab_size(const tokenizer *t) {
    return static_cast<uint32_t>(t->processor.GetPieceSize());
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->processor.bos_id();
}

int32_t tokenizer_eos(const tokenizer *t) {
    return t->processor.eos_id();
}

int32_t tokenizer_unk(const tokenizer *t) {
    return t->processor.unk_id();
}

void token_list_free(token_list *list) {
    free(list->ids);
    free(list->ends);
    *list = token_list();
}

static void reserve(token_list *list, size_t count) {
    if (count <= list->capacity) {
        return;
    }
    uint32_t *ids = static_cast<uint32_t *>(realloc(list->ids, count * sizeof *ids));
    if (!ids) {
        throw std::bad_alloc();
    }
    list->ids = ids;
    size_t *ends = static_cast<size_t *>(realloc(list->ends, count * sizeof *ends));
    if (!ends) {
        throw std::bad_alloc();
    }
    list->ends = ends;
    list->capacity = count;
}

bool tokenizer_encode(const tokenizer *t, const char *text, size_t length, token_list *out, fault *f) {
    const char *file = t->file.c_str();
    out->count = 0;
    if (length >= MAX_TEXT_BYTES) {
        return fault_set(f, FAULT_INPUT, file, nullptr, "a text of %zu bytes is too long to tokenise at once", length);
    }
    return guarded(file, f, [&] {
        sentencepiece::ImmutableSentencePieceText pieces;
        auto status = t->processor.Encode(absl::string_view(text, length), pieces.mutable_proto());
        if (!status.ok()) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "cannot tokenise: %s", status.error_message());
        }
        size_t count = pieces.pieces_size();
        reserve(out, count);
        // SentencePiece gives a character's bytes to the last of its byte tokens: backward, the others take that end.
        size_t end = 0;
        for (size_t i = count; i-- > 0;) {
            const auto piece = pieces.pieces(static_cast<int>(i));
            bool leading_byte = t->processor.IsByte(static_cast<int>(piece.id())) && piece.begin() == piece.end();
            end = leading_byte && i + 1 < count ? end : piece.end();
            out->ids[i] = piece.id();
            out->ends[i] = end;
        }
        out->count = count;
        return true;
    });
}

bool tokenizer_decode(const tokenizer *t, const uint32_t *ids, size_t count, char **text, fault *f) {
    const char *file = t->file.c_str();
    *text = nullptr;
    return guarded(file, f, [&] {
        for (size_t i = 0; i < count; i++) {
            if (ids[i] >= tokenizer_vocab_size(t)) {
                return fault_set(f, FAULT_INPUT, file, nullptr, "token %u is not in the vocabulary of %u",
                                 static_cast<unsigned>(ids[i]), static_cast<unsigned>(tokenizer_vocab_size(t)));
            }
        }
        std::string decoded;
        auto status = t->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
        if (!status.ok()) {
            return fault_set(f, FAULT_INPUT, file, nullptr, "cannot decode: %s", status.error_message());
        }
        *text = static_cast<char *>(malloc(decoded.size() + 1));
        if (!*text) {
            return fault_memory(f, file);
        }
        memcpy(*text, decoded.c_str(), decoded.size() + 1);
        return true;
    });
}

bool tokenizer_fits(const tokenizer *t, uint32_t model_vocab_size, fault *f) {
    uint32_t tokens = tokenizer_vocab_size(t);
    uint32_t most = tokens + (128 - tokens % 128) % 128;
    return (model_vocab_size >= tokens && model_vocab_size <= most) ||
           fault_set(f, FAULT_INPUT, t->file.c_str(), "vocabulary",
                     "%u tokens, but the model has %u: tokenizer and model do not belong together",
                     static_cast<unsigned>(tokens), static_cast<unsigned>(model_vocab_size));
}
