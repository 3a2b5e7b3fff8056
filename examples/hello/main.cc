#include <tessera/chat.h>
#include <iostream>

int main(int, char** argv) {
  tessera::Llm llm = tessera::Llm::load(argv[1]);
  tessera::Chat chat(llm);
  chat.options().sampling.temperature = 0;
  std::cout << chat.say("What does serendipity mean?").text << "\n";
}
